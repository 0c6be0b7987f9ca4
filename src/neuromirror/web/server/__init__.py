"""What stands between the pages and the network: files, headers, packing, patience."""

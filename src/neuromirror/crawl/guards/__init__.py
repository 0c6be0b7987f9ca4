"""Compare a new listing with the last state: accept it, hold it or record an incident."""

"""The pages that people see, one module a page or kind of page; and feeds."""

"""`dictpfl watch`: a page on loopback that shows a federation while it goes on."""

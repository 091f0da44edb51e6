"""`dictpfl report DIR --privacy`: a document for a review board, made from what a run or a party left behind."""

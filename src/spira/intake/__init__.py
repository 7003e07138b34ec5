"""What Collection and Serving share: submissions, keys, receipts, audit."""

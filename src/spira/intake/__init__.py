"""What Collection and Serving share: submissions, uploads, checks, receipts, audit."""

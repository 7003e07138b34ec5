"""Taking in what devices send: uploads, checks, receipts; what becomes of it is for others."""

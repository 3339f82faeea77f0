"""Every outside thing but the database, one file each."""

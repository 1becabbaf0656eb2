"""The command line; Click lives here and only here."""

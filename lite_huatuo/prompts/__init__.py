"""Every text that is sent to a teacher: one file per language, the forms of the replies, and how one is filled in."""

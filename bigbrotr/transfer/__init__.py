"""Files that people take home: they are written from an archive, and read back into one."""

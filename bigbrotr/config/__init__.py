"""The configuration: what may be set, how a file is read, and where shipped files lie."""

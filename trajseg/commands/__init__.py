"""The commands of `trajseg`, one file each."""

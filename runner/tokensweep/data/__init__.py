"""Getting problem sets as local files: known sets, their conversion, the download, the command."""

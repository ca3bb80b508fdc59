"""What every floor stands on: checks of arguments, files, folders, versions, progress."""

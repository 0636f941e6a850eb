"""What lies in georef/: how it is listed, what changed, and which frames the next runs take."""

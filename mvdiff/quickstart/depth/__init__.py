"""The quickstart of the depth task: frames of toy rooms from depth and poses, in two stages, and their mesh."""

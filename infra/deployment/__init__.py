"""Where all of it runs elsewhere: a container image, a compose file, a Helm chart, and sizes out of the plan."""

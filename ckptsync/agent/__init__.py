"""The sidecar: ships every complete checkpoint of a directory, and uses a notice of the cloud to the last second."""

"""The Python HTTP edge behind Envoy: what has no form in the JSON transcoder."""

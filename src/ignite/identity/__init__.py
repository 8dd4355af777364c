"""The built-in identity and the verifiers of tokens, ours and those of another OIDC issuer."""

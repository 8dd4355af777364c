"""AdminService: organisations, service accounts, tokens and the health of the installation."""

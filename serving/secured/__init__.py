"""Who may connect: TLS, tokens, and the rule that what listens beyond loopback needs both."""

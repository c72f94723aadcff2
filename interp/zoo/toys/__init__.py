"""Known-answer toys: small experiments whose outcome is derived or published, each with its control."""

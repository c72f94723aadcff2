"""Pictures of heads: what queries and keys look like together, patterns side by side, attention by distance and by depth."""

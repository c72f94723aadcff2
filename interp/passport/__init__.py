"""Head passport: every verdict on one head, on one page, with what contradicts what and how stable it is."""

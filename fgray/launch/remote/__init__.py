"""Jobs on clusters: what travels with them, how they are sent, followed, stopped and found again."""

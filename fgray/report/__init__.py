"""What people read: self-contained HTML pages (html, explore, compare) and tables for the terminal (console)."""

"""Model families: one declaration a folder."""

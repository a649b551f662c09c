"""The rooms. A room imports the hall and itself, never another room."""

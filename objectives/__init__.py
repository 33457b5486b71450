"""A model in, a Score out. This room has never heard of recipes or trials."""

"""Published configurations of the shipped recipes' students: of each config.json the numbers memory depends on."""

"""Small pieces of C, for what would else cost a visit to memory for each of its steps."""

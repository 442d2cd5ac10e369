"""What a day takes over from the weights of the day before when the recipe changed in between."""

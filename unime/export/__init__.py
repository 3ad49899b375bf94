"""Models that other libraries load, and the card that says what they are."""

"""What a frozen vision tower makes of pictures: computed once, and kept."""

"""Pairs of anybody's, in one form: what `./launch.sh prepare own` writes, and stage 2 reads."""

"""Third-party Hospital APIs (3): what hospitals know of participants, for the Label Store."""

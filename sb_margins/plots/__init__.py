"""Pictures of trainings and verifications."""

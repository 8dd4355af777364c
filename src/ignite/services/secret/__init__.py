"""SecretService: named, typed credentials of an organisation (spec 13)."""

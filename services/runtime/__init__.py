"""What every Turnout process shares: configuration, serving, errors, identity, logs."""

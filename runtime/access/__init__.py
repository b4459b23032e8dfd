"""Authentication of callers, their scopes, and quotas."""

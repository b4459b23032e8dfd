-- Finds the tokens of an owner by reading all of them again.

DROP INDEX IF EXISTS tokens_owner;

"""Steps of the database's schema. A step is never changed once it was released: the next one corrects it."""

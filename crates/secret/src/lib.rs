//! Secret keys: key generation, symmetric seeded encryption, decryption. Only the owner links it.

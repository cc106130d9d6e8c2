//! Key Generator, Protection Agent, Deployment Agent and Decryption Agent.

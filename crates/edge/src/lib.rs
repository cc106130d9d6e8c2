//! Data Stream Acquisition and Processing Agent: runs the plain front and the program blind.

//! The Trained and Protected DNN Database: names, versions, reports, files.

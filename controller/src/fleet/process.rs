//! Instances as child processes of this one, for `dormouse dev`.

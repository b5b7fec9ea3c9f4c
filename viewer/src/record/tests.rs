//! The names of a recording's files. Whole recordings are tested in `tests/real_media.rs`.

use super::*;

#[test]
fn the_next_file_has_a_number() {
    for (path, number, wanted) in
        [("talk.mp4", 1, "talk.mp4"), ("a/talk.mp4", 2, "a/talk-2.mp4"), ("x.y.mkv", 3, "x.y-3.mkv")]
    {
        assert_eq!(numbered(Path::new(path), number), Path::new(wanted));
    }
}

//! The user id outside of any user namespace, by `/proc/self/uid_map`.

/// The effective user id, translated to the initial user namespace (user_namespaces(7), "User and group ID mappings").
pub(crate) fn outer_uid() -> u32 {
    let here = rustix::process::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    mapped(here, &map)
}

fn mapped(here: u32, map: &str) -> u32 {
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let own = ranges.into_iter().find(|(first, _, count)| here.checked_sub(*first).is_some_and(|n| n < *count));
    own.map_or(here, |(first, outside, _)| outside.wrapping_add(here - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_map_translates_to_the_outer_uid() {
        for (here, map, outside) in [
            (0, "         0          0 4294967295\n", 0),
            (1000, "         0          0 4294967295\n", 1000),
            (0, "         0      65534          1\n", 65534),
            (3, "0 1000 1\n1 100000 65536\n", 100_002),
            (7, "", 7),
        ] {
            assert_eq!(mapped(here, map), outside, "{here} by {map:?}");
        }
    }
}

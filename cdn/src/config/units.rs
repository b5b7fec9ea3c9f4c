//! Serialisation of durations, sizes and optional addresses: `30s`, `8 MiB`, `127.0.0.1:9998`.

/// `1m 30s`, `45ms`.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in super::super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|e| de::Error::custom(format!("{text:?} is not a duration: {e}")))
    }
}

/// `256 KiB`, without decimals where there are none.
pub(super) mod size {
    use bytesize::ByteSize;
    use serde::Serializer;

    pub(in super::super) fn serialize<S: Serializer>(value: &ByteSize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string().replace(".0 ", " "))
    }
}

/// An optional address; the empty string is `None`.
pub(super) mod optional_address {
    use net::listen::ListenAddress;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<ListenAddress>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(address) => to.collect_str(address),
            None => to.serialize_str(""),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ListenAddress>, D::Error> {
        match String::deserialize(from)?.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(de::Error::custom),
        }
    }
}

/// Networks in CIDR notation, `192.0.2.0/24`; an address alone is a network of one.
pub(super) mod networks {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in super::super) fn serialize<S: Serializer>(value: &[IpNet], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(value.iter().map(ToString::to_string))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
        let parse = |text: &String| {
            let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network
                .map_err(|_| de::Error::custom(format!("{text:?} is no address and no network such as 192.0.2.0/24")))
        };
        Vec::<String>::deserialize(from)?.iter().map(parse).collect()
    }
}

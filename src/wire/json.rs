//! Messages as canonical protobuf JSON.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// The descriptors of all public messages.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).expect("the build wrote a descriptor set that decodes")
});

/// The descriptors of all public messages and services.
pub fn descriptors() -> &'static DescriptorPool {
    &POOL
}

/// `message`, whose full name is `name` (`remuda.v1.Event`), as canonical JSON; `None` where there is no such message.
pub fn to_json<M: Message>(name: &str, message: &M) -> Option<serde_json::Value> {
    let descriptor = POOL.get_message_by_name(name)?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()?;
    serde_json::to_value(dynamic).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_canonical() {
        let event = crate::v1::Event { revision: 7, kind: "WORKER_CLEANED".into(), to: 3, ..Default::default() };
        let json = to_json("remuda.v1.Event", &event).expect("events are public");
        assert_eq!(json["revision"], "7");
        assert_eq!(json["to"], "STATE_AVAILABLE");
        assert_eq!(to_json("remuda.v1.Nothing", &event), None);
    }
}

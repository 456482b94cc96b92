//! The numbers of the protocol: requests, flags, feature bits (vhost-user specification, "Message Specification",
//! "Protocol features", "Front-end message types" and "Back-end message types").

use core::fmt;

use bitflags::bitflags;

/// The version that every message carries in the lower two bits of its flags.
pub const VERSION: u32 = 1;
/// The bits of the flags that hold the version.
pub const VERSION_MASK: u32 = 3;
/// Bit 2 of the flags: the message is a reply.
pub const REPLY: u32 = 1 << 2;
/// Bit 3 of the flags: the sender asks for an answer, zero or not (protocol feature `REPLY_ACK`).
pub const NEED_REPLY: u32 = 1 << 3;

/// Bit 30 of the virtio features: the back end has protocol features. Never seen by a driver.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Bits 0 to 7 of a kick, call or error request: the ring.
pub const RING_MASK: u64 = 0xff;
/// Bit 8 of a kick, call or error request: no descriptor comes along.
pub const NO_FD: u64 = 1 << 8;

/// The most bytes of configuration that a message carries.
pub const MAX_CONFIG: usize = 256;
/// The largest size of a ring (virtio 1.2, 2.7 and 2.8).
pub const MAX_RING_SIZE: u16 = 32768;

bitflags! {
    /// What the two sides may agree on beyond the first version of the protocol.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ProtocolFeatures: u64 {
        /// More than one pair of queues.
        const MQ = 1 << 0;
        /// Pages that the back end writes are logged, for migration.
        const LOG_SHMFD = 1 << 1;
        /// The back end announces a guest after its migration.
        const RARP = 1 << 2;
        /// Any request may ask for an answer.
        const REPLY_ACK = 1 << 3;
        /// The front end tells the MTU.
        const NET_MTU = 1 << 4;
        /// The back end has requests of its own, over a second socket.
        const BACKEND_REQ = 1 << 5;
        /// The front end reads the device's configuration from the back end.
        const CONFIG = 1 << 9;
        /// Descriptors in work are tracked in shared memory.
        const INFLIGHT_SHMFD = 1 << 12;
        /// The front end may reset the device.
        const RESET_DEVICE = 1 << 13;
        /// Kicks and calls by messages.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// Memory is given region by region.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// The back end knows the device status.
        const STATUS = 1 << 16;
    }
}

/// Defines requests with their numbers and the names that the specification gives them.
macro_rules! requests {
    ($(#[$of:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$doc])* #[doc = concat!("`VHOST_USER_", $text, "`.")] $variant = $number,)+
        }

        impl $name {
            /// The request with this number, if there is one.
            #[must_use]
            pub fn of(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $text,)+
                })
            }
        }
    };
}

requests! {
    /// What a front end may ask for.
    Code {
        GetFeatures = 1, "GET_FEATURES";
        SetFeatures = 2, "SET_FEATURES";
        SetOwner = 3, "SET_OWNER";
        ResetOwner = 4, "RESET_OWNER";
        SetMemTable = 5, "SET_MEM_TABLE";
        SetLogBase = 6, "SET_LOG_BASE";
        SetLogFd = 7, "SET_LOG_FD";
        SetVringNum = 8, "SET_VRING_NUM";
        SetVringAddr = 9, "SET_VRING_ADDR";
        SetVringBase = 10, "SET_VRING_BASE";
        GetVringBase = 11, "GET_VRING_BASE";
        SetVringKick = 12, "SET_VRING_KICK";
        SetVringCall = 13, "SET_VRING_CALL";
        SetVringErr = 14, "SET_VRING_ERR";
        GetProtocolFeatures = 15, "GET_PROTOCOL_FEATURES";
        SetProtocolFeatures = 16, "SET_PROTOCOL_FEATURES";
        GetQueueNum = 17, "GET_QUEUE_NUM";
        SetVringEnable = 18, "SET_VRING_ENABLE";
        SendRarp = 19, "SEND_RARP";
        NetSetMtu = 20, "NET_SET_MTU";
        SetBackendReqFd = 21, "SET_BACKEND_REQ_FD";
        IotlbMsg = 22, "IOTLB_MSG";
        SetVringEndian = 23, "SET_VRING_ENDIAN";
        GetConfig = 24, "GET_CONFIG";
        SetConfig = 25, "SET_CONFIG";
        CreateCryptoSession = 26, "CREATE_CRYPTO_SESSION";
        CloseCryptoSession = 27, "CLOSE_CRYPTO_SESSION";
        PostcopyAdvise = 28, "POSTCOPY_ADVISE";
        PostcopyListen = 29, "POSTCOPY_LISTEN";
        PostcopyEnd = 30, "POSTCOPY_END";
        GetInflightFd = 31, "GET_INFLIGHT_FD";
        SetInflightFd = 32, "SET_INFLIGHT_FD";
        GpuSetSocket = 33, "GPU_SET_SOCKET";
        ResetDevice = 34, "RESET_DEVICE";
        VringKick = 35, "VRING_KICK";
        GetMaxMemSlots = 36, "GET_MAX_MEM_SLOTS";
        AddMemReg = 37, "ADD_MEM_REG";
        RemMemReg = 38, "REM_MEM_REG";
        SetStatus = 39, "SET_STATUS";
        GetStatus = 40, "GET_STATUS";
    }
}

requests! {
    /// What a back end may ask for, over the second socket.
    BackEndCode {
        Iotlb = 1, "BACKEND_IOTLB_MSG";
        ConfigChange = 2, "BACKEND_CONFIG_CHANGE_MSG";
        HostNotifier = 3, "BACKEND_VRING_HOST_NOTIFIER_MSG";
        VringCall = 4, "BACKEND_VRING_CALL";
        VringErr = 5, "BACKEND_VRING_ERR";
    }
}

impl Code {
    /// Whether the back end answers it with a payload of its own, asked for an answer or not.
    #[must_use]
    pub fn has_reply(self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::GetProtocolFeatures
                | Self::GetVringBase
                | Self::GetQueueNum
                | Self::GetConfig
                | Self::CreateCryptoSession
                | Self::PostcopyAdvise
                | Self::GetInflightFd
                | Self::GetMaxMemSlots
                | Self::GetStatus
        )
    }
}

// Between login and desktop. Nothing moves: a bar grows by one step as each part of the session reports in.
import QtQuick

Rectangle {
    id: root

    property int stage: 0
    readonly property int stages: 6

    color: "@window@"
    Accessible.role: Accessible.ProgressBar
    Accessible.name: "The desktop is starting"

    Column {
        anchors.centerIn: parent
        spacing: 28

        Image {
            anchors.horizontalCenter: parent.horizontalCenter
            source: "images/symbol.svg"
            sourceSize: Qt.size(112, 112)
        }

        Image {
            anchors.horizontalCenter: parent.horizontalCenter
            source: "images/wordmark.svg"
            sourceSize: Qt.size(186, 42)
        }

        Rectangle {
            anchors.horizontalCenter: parent.horizontalCenter
            width: 186
            height: 4
            radius: 2
            color: "@line@"

            Rectangle {
                width: parent.width * Math.min(root.stage / root.stages, 1)
                height: parent.height
                radius: 2
                color: "@accent@"
            }
        }
    }
}
